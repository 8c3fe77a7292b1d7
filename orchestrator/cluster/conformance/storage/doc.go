// Package storage holds the behaviours of sig-storage that the API shows. Those that mount volumes are open.
package storage
