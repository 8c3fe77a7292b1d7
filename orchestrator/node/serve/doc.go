// Package serve is the HTTPS server of a node: what the API server, monitors and administrators ask a node for.
//
// # Who may ask
//
// A client shows a certificate that the cluster's authority signed, or a bearer token, which the API server reviews. Nobody is
// anonymous. What is asked for is a subresource of the node, and the API server says who may have it:
//
//	/pods, /runningpods   pods, or proxy
//	/healthz, /configz    healthz or configz, or proxy
//	/metrics, /metrics/*  metrics
//	/stats/*              stats
//	/logs/*               log
//	anything else         proxy
//
// The verb is that of the HTTP method, but commands and connections are always "create": a WebSocket begins with a GET and does
// as much as a POST.
//
// # Connections to containers
//
// The runtime serves them itself, at an address that it tells for every single one (CRI Exec, Attach, PortForward). What a client
// sends goes there as it is, be it SPDY or a WebSocket. Two protocols of WebSockets are newer than what runtimes speak,
// v5.channel.k8s.io and the tunnel for port forwards: these become SPDY here.
//
// # Concurrency
//
// A Server is used by many requests at once, each in its own goroutine. Answers of the API server about users and their rights
// are kept for minutes, in caches of a bounded size. Run ends what is still open.
package serve
