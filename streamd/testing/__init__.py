"""Whole peers to test against: cameras that speak RTSP or HTTP and misbehave on command."""
