"""Links that survive their connections: no frame is lost or duplicated when a connection breaks."""
