// Package cluster composes the platform: an embedded store member, the API server, the controllers, the scheduler and hollow
// nodes, in one process or each in its own.
//
// # Roles
//
//	store        a member of the store, reached through a socket in the data directory; or an external cluster
//	API server   serves HTTPS; its clients in the same process call its handler without a socket
//	controllers  every control loop, behind a lease if there are several processes of them
//	scheduler    likewise
//	hollow       simulated nodes
//
// Each role is a function that runs until its context ends. Up runs all of them and stops them in reverse; Serve,
// RunControllers, RunScheduler and RunHollow run one each, as processes of their own.
//
// # Concurrency
//
// A role is run once. Whatever it starts has ended when its function returns.
package cluster
