// Package credentials holds the behaviours of sig-auth that only pods show which have credentials: tokens, certificates, trust
// bundles. With them is one of sig-api-machinery: an API server in a pod, which believes the cluster's by its certificate.
package credentials
