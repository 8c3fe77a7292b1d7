// Package registry talks to image registries: mirrors first, with credentials, in bounded time, and with errors that a user
// understands.
//
// # Which endpoint
//
// A repository is looked for at the mirrors of its registry in their order, and at the registry itself last. Credentials are
// sent to the registry that they are for and to nobody else; a mirror has its own. Plain http is spoken with loopback
// addresses and where the configuration says so, and nowhere else.
//
// # Time
//
// There is no limit to how long a download takes, only to how long it may stand still (Config.Stall). Passing faults (broken
// connections, statuses 429 and 5xx) are tried again with growing pauses; a stall is not.
//
// # Errors
//
// Every error names the registry and is one of ErrNotFound, ErrUnauthorized, ErrUnavailable and ErrInvalid, or that of the
// context.
//
// # Concurrency
//
// A Client and its Repositories may be used by any number of goroutines.
package registry
