"""The image of an app without its model, made with a Docker engine or without one."""
