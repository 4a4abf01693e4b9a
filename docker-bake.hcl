// The image and its variants: `docker buildx bake` builds the first, `docker buildx bake NAME` another.

variable "IMAGE" { default = "sdworker" }
variable "TAG" { default = "latest" }

// The model that is baked in, by hub id or by a path under models/; the Dockerfile's default if empty.
variable "MODEL_ID" { default = "" }
variable "MODEL_REVISION" { default = "" }

group "default" { targets = ["worker"] }

target "common" {
  context   = "."
  platforms = ["linux/amd64"]
  // Of the environment, if it is set there; it ends in no layer.
  secret    = ["type=env,id=hf_token,env=HF_TOKEN"]
}

// Stable Diffusion 1.5, or the MODEL_ID named, for CUDA 12.6: any card from Maxwell to Hopper, any driver since 525.
target "worker" {
  inherits = ["common"]
  tags     = ["${IMAGE}:${TAG}"]
  args = {
    MODEL_ID       = MODEL_ID == "" ? null : MODEL_ID
    MODEL_REVISION = MODEL_REVISION
  }
}

// Stable Diffusion 1.5 whatever MODEL_ID says, XL 1.0, and XL Turbo, whose licence is non-commercial.
target "sd15" {
  inherits = ["common"]
  tags     = ["${IMAGE}:${TAG}-sd15"]
}

target "sdxl" {
  inherits = ["common"]
  tags     = ["${IMAGE}:${TAG}-sdxl"]
  args     = { MODEL_ID = "stabilityai/stable-diffusion-xl-base-1.0" }
}

target "sdxl-turbo" {
  inherits = ["common"]
  tags     = ["${IMAGE}:${TAG}-sdxl-turbo"]
  args     = { MODEL_ID = "stabilityai/sdxl-turbo" }
}

// The first one for CUDA 13.0: Blackwell (RTX 50, RTX PRO 6000, B200), and Turing to Hopper; driver 580 or later. In
// .runpod/hub.json only "13.0" and later are then to be allowed.
target "cuda13" {
  inherits = ["worker"]
  tags     = ["${IMAGE}:${TAG}-cuda13"]
  args     = { TORCH_BUILD = "cu130" }
}

// Without xformers: attention is PyTorch's own by default anyway.
target "slim" {
  inherits = ["worker"]
  tags     = ["${IMAGE}:${TAG}-slim"]
  args     = { XFORMERS = "" }
}

// The small model of the repository: no download from a hub, for trying things out on a GPU.
target "emoji" {
  inherits = ["common"]
  tags     = ["${IMAGE}:${TAG}-emoji"]
  args     = { MODEL_ID = "models/emoji" }
}

// The same without CUDA, a few hundred megabytes to load: for tests and development.
target "cpu" {
  inherits = ["emoji"]
  tags     = ["${IMAGE}:${TAG}-cpu"]
  args = {
    TORCH_BUILD = "cpu"
    XFORMERS    = ""
    DEVICE      = "cpu"
  }
}

// Not an image: the bill of materials (CycloneDX) and the licences of what the image has, into build/sbom.
target "sbom" {
  inherits = ["common"]
  target   = "sbom"
  output   = ["type=local,dest=build/sbom"]
}
