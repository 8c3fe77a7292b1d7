// Package instrumentation holds the behaviours of sig-instrumentation: events.
package instrumentation
