// Package fakestore is an in-process cluster for the tests of the client packages: members that serve the API's
// services over unix sockets from one shared, naive store, with faults that a test can switch on.
//
// It is written for plainness. The store keeps every revision's events in a slice, and reads by replaying them.
//
// # Concurrency
//
// Everything is guarded by Store.mu, and streams are woken by a condition variable.
package fakestore
