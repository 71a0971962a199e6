"""Loopback stand-ins for the services that a remote stack talks to; what is submitted to them runs on this machine."""
