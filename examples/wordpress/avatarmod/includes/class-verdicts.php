<?php
/**
 * Takes what became of a picture, whoever brings it: a callback, an answer, the list of changes.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** What is shown changes first; then others are told; what all have taken is remembered last. */
final class Verdicts {

	/**
	 * Take over one state.
	 *
	 * @param array $data `data` of a callback: upload_id, state, seq, reason_text.
	 * @return bool Whether it was news about the picture that somebody has now.
	 * @throws \Throwable A handler of `avatarmod_verdict` failed; the same may come again.
	 */
	public static function take( array $data ): bool {
		$user_id = Record::user_of( (string) ( $data['upload_id'] ?? '' ) );
		if ( 0 === $user_id || ! isset( $data['state'], $data['seq'] ) || ! get_userdata( $user_id ) ) {
			return false;
		}
		return Record::locked(
			$user_id,
			static function ( Record $record ) use ( $data ) {
				return $record->upload_id === $data['upload_id'] && self::apply( $record, $data );
			}
		);
	}

	/** To a record that nobody else changes. */
	private static function apply( Record $record, array $data ): bool {
		$seq = (int) $data['seq'];
		if ( $seq <= $record->seq || $seq < $record->shown_seq ) {
			return false;
		}
		$record->state     = (string) $data['state'];
		$record->reason    = (string) ( $data['reason_text'] ?? '' );
		$record->error     = '';
		$record->shown_seq = $seq;
		if ( 'blocked' === $record->state ) {
			Vault::hide( $record, self::picture( $record ) );
		} else {
			Vault::restore( $record );
		}
		$record->save();
		clean_user_cache( $record->user_id );
		/**
		 * Something became of a user's picture; throw to have it told again later.
		 *
		 * @param array $data    See the HTTP API: upload_id, state, seq, reason, reason_text, probability...
		 * @param int   $user_id Whose picture.
		 */
		do_action( 'avatarmod_verdict', $data, $record->user_id );
		$record->seq = $seq;
		$record->save();
		return true;
	}

	/** The picture that a record is about, with its copies where they are known. */
	private static function picture( Record $record ): ?Picture {
		$picture = Sources::of_user( $record->user_id );
		return null !== $picture && $picture->stamp() === $record->stamp
			? $picture
			: Picture::named( explode( '|', $record->stamp )[0] );
	}
}
