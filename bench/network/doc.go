// Package network measures the way between two places: how many bytes a second pass, and how long a small message and its answer
// take. It also measures a DNS server.
//
// # The protocol
//
// The first byte of a TCP connection says what it is for: 's', everything that follows is read and thrown away until the other
// side closes its half, and then answered with the number of bytes as 8 bytes, big endian; 'e', messages of 64 bytes are sent back.
//
// # Concurrency
//
// Serve handles each connection in a goroutine of its own, and waits for them. The measurements use the loops of package bench.
package network
