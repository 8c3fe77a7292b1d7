// Package auth holds the behaviours of sig-auth that the API shows: certificates and trust bundles, service accounts and their
// tokens, reviews. What containers see of these is open.
package auth
