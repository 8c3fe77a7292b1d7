// Package faults holds tests of what the cluster does when its processes are killed. They run keelson's binary.
package faults
