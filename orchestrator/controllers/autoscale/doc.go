// Package autoscale decides how many replicas a HorizontalPodAutoscaler wants. It is pure: metrics, pods, the wish, what was
// recommended and done of late, and the time go in; a decision comes out. The controller that reads and writes is package controllers.
//
// # From metrics to a number
//
// Every metric proposes a number of replicas: as many as bring the measured to the target. The largest proposal is taken. A metric that
// could not be read proposes nothing, and the others may then only let the target grow.
//
// A metric of pods is averaged over the pods that count: pods that end or have failed do not, and those that are not ready yet, of
// which processors are busy with starting, are left out first. If what is left says that there are too few pods, those that are not
// ready count as idle; pods without a measurement count as idle when the target would grow and as fully busy when it would shrink. If
// the direction turns by that, nothing is done. Within the tolerance (10 %, or what the autoscaler says of each direction) nothing is
// done either.
//
// # From a number to a step
//
// The number is a recommendation. With the recommendations of the stabilization windows it is dampened: down no further than the
// highest of the last five minutes, unless the autoscaler's behavior has other windows. Then policies bound the step by what has been
// done in their periods already, without behavior by doubling, and at last the autoscaler's least and most replicas bound it.
//
// # Concurrency
//
// All functions are pure. A History is a value: functions return new ones.
package autoscale
