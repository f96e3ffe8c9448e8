package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// median of at least one value.
func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// spread is "median (min – max)" with a number format for each.
func spread(values []float64, format string) string {
	return fmt.Sprintf(format+" ("+format+" – "+format+")", median(values), slices.Min(values), slices.Max(values))
}

// ratios divides pairwise.
func ratios(a, b []float64) []float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] / b[i]
	}
	return r
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// table prints Markdown.
func table(header string, rows [][]string) {
	columns := strings.Split(header, "|")
	fmt.Println("| " + strings.Join(columns, " | ") + " |")
	fmt.Println("|" + strings.Repeat("---|", len(columns)))
	for _, row := range rows {
		fmt.Println("| " + strings.Join(row, " | ") + " |")
	}
}
