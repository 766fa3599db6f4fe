"""Floor 2: the other end of Nebh's doors: frames on unix sockets, and the controller's API."""
