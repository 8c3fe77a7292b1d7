// Package storage holds the behaviours of sig-storage that the API shows. Those that mount volumes are in package volumes.
package storage
