// Package application holds tests of an application as users run it: a Deployment behind a Service with its configuration, a
// rolling update under load, and kubectl's ways to look at and into its pods. They run real pods; see package nodetest.
//
// # Concurrency
//
// Tests run in parallel on one cluster, each in a namespace of its own.
package application
