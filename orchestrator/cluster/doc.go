// Package cluster composes the orchestrator: certificates, kubeconfig, and what runs in one process and in which order.
//
// # Concurrency
//
// Functions may be called from any goroutine.
package cluster
