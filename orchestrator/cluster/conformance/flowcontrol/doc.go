// Package flowcontrol holds the behaviours of sig-api-machinery about API priority and fairness.
package flowcontrol
