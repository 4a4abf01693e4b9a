"""The form's request as code that runs."""

import json
import os
import subprocess
import sys
from typing import Any

from tests.local_endpoint.harness import KEY, Endpoint
from tests.local_endpoint.page.driving import field


class TestSnippets:
    PROMPT = 'draw it\'s a "dog" $HOME `x` \\ ü'

    def copied(self, page: Any, language: str) -> str:
        field(page, "prompt").fill(self.PROMPT)
        page.get_by_role("button", name=language).click()
        page.get_by_text(f"Copied as {language}").wait_for()
        code = str(page.evaluate("navigator.clipboard.readText()"))
        assert KEY not in code
        return code

    def ran(self, *command: str) -> str:
        env = {**os.environ, "RUNPOD_API_KEY": KEY}
        ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def test_curl_runs_as_copied(self, page: Any, drawing: Endpoint) -> None:
        answer = json.loads(self.ran("bash", "-c", self.copied(page, "curl")))
        assert drawing.status(answer["id"])["input"] == {"prompt": self.PROMPT}

    def test_python_runs_as_copied(self, page: Any) -> None:
        assert "'seed': 40264" in self.ran(sys.executable, "-c", self.copied(page, "Python"))

    def test_javascript_is_that_of_the_official_client(self, page: Any) -> None:
        code = self.copied(page, "JavaScript")
        assert 'import runpodSdk from "runpod-sdk";' in code
        assert json.dumps(self.PROMPT, ensure_ascii=False) in code
