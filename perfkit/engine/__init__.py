"""The step loop and what surrounds it in every rank."""
