package jsonvalue_test

import (
	"math/big"
	"testing"
)

// A big.Float has a precision, which its text does not say.
func TestEncode_BigFloat(t *testing.T) {
	t.Parallel()
	same := new(big.Float).SetPrec(64).SetFloat64(1.5)
	rounded := new(big.Float).SetPrec(64).SetMode(big.ToZero).SetFloat64(1.5)
	encodes(t, "precision 53", big.NewFloat(0.1), false)
	encodes(t, "precision 53, with few digits", *big.NewFloat(1.5), false)
	encodes(t, "in a field", struct{ F *big.Float }{big.NewFloat(0.1)}, false)
	encodes(t, "in a list", []big.Float{*same, *big.NewFloat(0.1)}, false)
	encodes(t, "precision 200", new(big.Float).SetPrec(200).SetFloat64(0.1), false)
	encodes(t, "mode", rounded, false)
	encodes(t, "precision 64", same, true)
	encodes(t, "nil", struct{ F *big.Float }{}, true)
}
