"""Copies of the database that holds what devices did."""
