// Package table holds the test that keeps docs/conformance.md in agreement with the behaviours that are tested:
// go test ./orchestrator/cluster/conformance/table -update rewrites the table.
package table
