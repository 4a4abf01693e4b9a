"""How finished images reach the user: as base64 in the result, or as links into a bucket.

`bucket_for` is asked before anything is drawn, so that a wrong `s3Config` costs no GPU time;
`deliver` afterwards. A bucket may be hostile: each job has connections and a deadline of its own, and what a
bucket answers is bounded.
"""

from sdworker.delivery.bucket import Bucket
from sdworker.delivery.deliver import Delivery, result_bytes
from sdworker.delivery.errors import DeliveryError

__all__ = ["Bucket", "Delivery", "DeliveryError", "result_bytes"]
