"""The published release: find it in a folder, fetch it, install it."""
