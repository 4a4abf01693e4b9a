"""Add-on files that a job may name: found in folders, fetched from hosts that the deployment allows, kept on disk.

`library` is all add-ons of a deployment, by kind. Below it, `folders` finds what lies on this machine, `sources`
tells where a remote name leads, `download` brings it here through the guard, `cache` keeps it, bounded, under its
hash, and `store` is all of that in one call. Nothing here reads what is in a file.
"""

from sdworker.assets.errors import AddOnError
from sdworker.assets.folders import Folders
from sdworker.assets.library import AddOns, Kind
from sdworker.assets.store import AddOnStore

__all__ = ["AddOnError", "AddOnStore", "AddOns", "Folders", "Kind"]
