"""What every request passes before a route: the connection that it comes by, its layers, and how errors leave."""
