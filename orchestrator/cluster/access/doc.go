// Package access tests, on running clusters and over HTTPS, who is known by what, and who may do what: the API server's
// settings, identities, rights and their guards, and what is written down of it.
package access
