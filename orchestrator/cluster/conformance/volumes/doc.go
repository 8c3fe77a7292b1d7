// Package volumes holds the behaviours of sig-storage that containers see: what is in the volumes of real pods, who may read
// it, and how it changes.
//
// A behaviour is mostly a row: a pod with volumes, a script that prints facts about them, and what it should print.
package volumes
