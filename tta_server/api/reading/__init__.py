"""How the body of a request is read: as a whole, opened, cut into files, as JSON; and how an answer is made smaller."""
