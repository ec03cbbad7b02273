"""Chaos tests: break what projectapp depends on, and compare its responses with what is stored."""
