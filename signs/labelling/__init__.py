"""A page on this machine, on which a person says what photos show."""
