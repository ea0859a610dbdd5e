"""The other end of the wire: reference attacks, and the server that answers validators with them."""
