// Package connect reaches nodes, pods and services from the API server, for those who may not or cannot reach them themselves.
//
// A node's server is at the address and port that its status tells, and is reached over TLS: its certificate must be signed by the
// cluster's authority and name the address; the API server shows one of its own. Simulated nodes tell no port, and cannot be reached.
// Pods and services are reached directly, without looking at their certificates.
//
// Connections that are upgraded go through as they are, SPDY and WebSockets alike. What only the API server is to know of a
// request, its credentials above all, is taken out of it.
//
// What the API server itself tells bit by bit, a container's log, it also tells in the messages of a WebSocket.
//
// # Concurrency
//
// A Connector is used by many requests at once, each of which is forwarded in its own goroutine until it ends. Those that were
// upgraded end with the Connector's context, too.
package connect
