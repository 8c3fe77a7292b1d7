// Package apimachinery holds the behaviours of sig-api-machinery that the API server shows by itself, without extensions.
package apimachinery
