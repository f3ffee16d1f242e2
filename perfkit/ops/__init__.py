"""Image and network operators: the Python face and a pure-torch reference of each."""
