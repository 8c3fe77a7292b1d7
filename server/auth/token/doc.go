// Package token makes the tokens that users get when they authenticate, and finds out who holds one.
//
// Two kinds, as in etcd: simple tokens, random text that every member notes when the command Authenticate is applied, and
// JSON Web Tokens, which are signed and noted nowhere.
//
// A simple token is the random part that the command carries, a point, and the index of the last entry before the command. So
// every member gives the same user the same token, and a member that lags behind knows from the index how long to wait
// before it calls a token unknown. It is forgotten when it was not used on a member for its time to live.
//
// # Concurrency
//
// Assign, Forget and Clear are for the apply goroutine; everything else may be called from anywhere.
package token
