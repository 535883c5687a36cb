"""Links that outlive their connections: no frame is lost or doubled when a connection breaks."""
