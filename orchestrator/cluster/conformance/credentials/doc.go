// Package credentials holds the behaviours of sig-auth that only pods show which have credentials: tokens, certificates, trust
// bundles.
package credentials
