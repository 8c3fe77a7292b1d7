//go:build embedshim

package program

import _ "embed"

// embedded is the program; `make build` puts it here.
//
//go:embed keelson-shim
var embedded []byte
