package nearest

// wordMax bounds the work: what is longer is nobody's typing error.
const wordMax = 64

// Word returns the known word with the fewest edits from word, if it is near enough to be meant: at most a third of its letters, or two.
func Word(word string, known []string) (string, bool) {
	best, distance := "", 1+max(2, len(word)/3)
	for _, k := range known {
		if d := edits(word, k); d < distance {
			best, distance = k, d
		}
	}
	return best, best != ""
}

// edits is Levenshtein's distance, in bytes. Words beyond wordMax are as far as can be.
func edits(a, b string) int {
	if len(a) > wordMax || len(b) > wordMax {
		return wordMax
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
