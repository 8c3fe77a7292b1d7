// Package traffic holds the behaviours of sig-network that only pods show that speak with each other.
package traffic
