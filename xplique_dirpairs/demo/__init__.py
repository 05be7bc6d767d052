"""The demo on scenes whose truth is known."""
