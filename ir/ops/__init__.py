"""Operations: one declaration each."""
