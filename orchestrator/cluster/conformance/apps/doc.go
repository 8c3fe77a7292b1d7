// Package apps holds the behaviours of sig-apps.
package apps
