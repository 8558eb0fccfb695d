package durable

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"
)

// MaxNameBytes is the length of the longest name of an object, in bytes.
const MaxNameBytes = 1024

// An ID identifies an object within its type: 32 bytes, printed as 64 lower
// case hexadecimal digits. The zero ID is no object's.
//
// The first byte tells how the id was made: from a name ([IDFromName]) or at
// random ([NewUniqueID]). The next 23 hold a hash of the name, keyed by the
// object type, or random bytes. The last 8 are a check over the others, keyed
// likewise, by which an id of another type, or one that was made up, is refused
// without a look at the store. The check is no secret and an id grants no
// right: decide who may call before you route.
type ID [32]byte

const (
	idNamed  = 1
	idUnique = 2

	idBody = 24 // bytes before the check
)

// IDFromName returns the id of the object of that type and name. Equal names
// give equal ids, always and everywhere; the same name in two types does not.
// It does not check the name: see [CheckName].
func IDFromName(objectType, name string) ID {
	id := keyedHash(objectType, idNamed, name)
	return sealID(objectType, id)
}

// NewUniqueID returns a random id that no other call has returned or will
// return. Such an object has no name; keep the id to reach it again.
func NewUniqueID(objectType string) ID {
	var id ID
	_, _ = rand.Read(id[:idBody]) // never fails, by its contract
	id[0] = idUnique
	return sealID(objectType, id)
}

// ParseID parses the text of an id, in either letter case. It returns a
// [KeyError] for text that is not 64 hexadecimal digits, and for an id that does
// not belong to objectType.
func ParseID(objectType, text string) (ID, error) {
	var id ID
	if len(text) != 2*len(id) {
		return ID{}, &KeyError{Problem: KeyInvalid, Detail: fmt.Sprintf("an id is 64 hexadecimal digits, not %d characters", len(text))}
	}
	if _, err := hex.Decode(id[:], []byte(text)); err != nil {
		return ID{}, &KeyError{Problem: KeyInvalid, Detail: "an id is 64 hexadecimal digits, and this text has others"}
	}
	if err := CheckID(objectType, id); err != nil {
		return ID{}, err
	}
	return id, nil
}

// CheckID returns a [KeyError] unless id was made for objectType.
func CheckID(objectType string, id ID) error {
	if id[0] == idNamed || id[0] == idUnique {
		want := sealID(objectType, id)
		if subtle.ConstantTimeCompare(want[idBody:], id[idBody:]) == 1 {
			return nil
		}
	}
	return &KeyError{Problem: KeyWrongType, Detail: fmt.Sprintf("the id does not belong to object type %q", objectType)}
}

// CheckName returns a [KeyError] unless name can name an object: 1 to
// [MaxNameBytes] bytes of valid UTF-8 without NUL.
func CheckName(name string) error {
	switch {
	case name == "":
		return &KeyError{Problem: KeyInvalid, Detail: "the name is empty"}
	case len(name) > MaxNameBytes:
		return &KeyError{Problem: KeyInvalid, Detail: fmt.Sprintf("the name has %d bytes, the limit is %d", len(name), MaxNameBytes)}
	case !utf8.ValidString(name):
		return &KeyError{Problem: KeyInvalid, Detail: "the name is not valid UTF-8"}
	case strings.IndexByte(name, 0) >= 0:
		return &KeyError{Problem: KeyInvalid, Detail: "the name holds a NUL byte"}
	}
	return nil
}

// String returns the 64 lower case hexadecimal digits of the id.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id is the zero ID.
func (id ID) IsZero() bool { return id == ID{} }

func sealID(objectType string, id ID) ID {
	check := keyedHash(objectType, 0, string(id[:idBody]))
	copy(id[idBody:], check[1:])
	return id
}

// keyedHash hashes text under the object type, for one use. The type is hashed
// to a fixed length first, so that no type and text can be shifted into
// another pair.
func keyedHash(objectType string, use byte, text string) ID {
	key := typeKey(objectType)
	var arr [128]byte
	buf := append(arr[:0], key[:]...)
	buf = append(buf, use)
	buf = append(buf, text...)
	sum := sha256.Sum256(buf)
	var id ID
	id[0] = use
	copy(id[1:], sum[:])
	return id
}

// typeKeys holds the keys of the types seen, which a program has few of.
var typeKeys sync.Map // string → *[32]byte

func typeKey(objectType string) *[32]byte {
	if key, ok := typeKeys.Load(objectType); ok {
		return key.(*[32]byte)
	}
	key := sha256.Sum256([]byte("durable.v1.id\x00" + objectType))
	typeKeys.Store(objectType, &key)
	return &key
}
