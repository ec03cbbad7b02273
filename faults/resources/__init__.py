"""The resources that the scenarios can use: a module for each, with its Resource as RESOURCE."""
