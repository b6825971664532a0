"""Other people's software, made to speak of events: each module is for one, and needs it alone."""
