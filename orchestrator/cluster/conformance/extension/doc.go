// Package extension holds the behaviours of sig-api-machinery that are about extending the API: webhooks, admission policies
// and custom resources.
package extension
