// Package ui is the page for people at /ui/ of a member's client URLs: members and charts, keys with their history, leases and
// watches. It is a client of the JSON gateway like any other, with the rights of the user who signs in.
package ui

import (
	"embed"
	"io/fs"
	"net/http"

	"github.com/keelson-io/keelson/internal/webui"
)

//go:embed page
var files embed.FS

// Handler serves the page at /.
func Handler() http.Handler {
	page, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // page is a valid name
	}
	return webui.Handler(page)
}
