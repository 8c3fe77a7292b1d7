// Package probe asks containers whether they have started, whether they are ready and whether they live.
//
// # Model
//
// Start gives the prober a container, with as many checks as it has probes: startup, readiness, liveness. A check is run when
// it is due; it costs a goroutine only while it runs. Nothing runs while it waits: one goroutine, Run, sleeps until the next
// check of all of the node is due.
//
//	started ── initialDelay ──> due ── run ──> +period ──> due ...
//
// The outcome of a check changes when as many runs in a row as the threshold says agree. Until a container has started (its
// startup check has passed), its other checks wait; once it has, they are due at once. A liveness or startup check that has
// failed waits for the next container: the workers restart it.
//
// Runs whose outcome is not known (a port without a number, a runtime that does not answer) are not counted.
//
// A container that ran before the prober began, since the agent was restarted, keeps what the pod's status says of it until
// its checks say otherwise: a restart of the agent takes no pod out of its services. Its checks begin at random moments
// within their period, so that they do not all come at once.
//
// # Concurrency
//
// All methods may be called from any goroutine. Changes is for one reader; changes wait for it without a bound and are in
// order per container. Run is called once.
package probe
