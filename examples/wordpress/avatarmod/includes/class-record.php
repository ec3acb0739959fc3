<?php
/**
 * What is known of somebody's picture; one user meta value, and the state beside it for queries.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** One user's record. */
final class Record {

	public const META  = 'avatarmod';
	public const STATE = 'avatarmod_state';

	/** Not sent yet; then as the API says. */
	public const UNSENT = 'unsent';

	public int $user_id;

	/** As the service knows the picture; empty for none. */
	public string $upload_id = '';

	/** The picture it is about, see Picture::stamp(). */
	public string $stamp = '';

	/** What is shown by. */
	public string $state = '';

	/** The number of that state; an older one that comes late changes nothing. */
	public int $shown_seq = 0;

	/** The number of the newest state that everybody who wants to know was told of. */
	public int $seq = 0;

	/** For the user, in words. */
	public string $reason = '';

	/** Why it could not be sent, in words. */
	public string $error = '';

	public int $attempts = 0;

	/** Seconds since the epoch. */
	public int $next_try = 0;
	public int $since    = 0;

	/**
	 * Where files of a blocked picture were put: name below the folder of uploads => file.
	 *
	 * @var array<string, string>
	 */
	public array $hidden = array();

	/** As it is kept; an empty one where nothing is. */
	public static function of( int $user_id ): self {
		$record          = new self();
		$record->user_id = $user_id;
		$kept            = get_user_meta( $user_id, self::META, true );
		foreach ( is_array( $kept ) ? $kept : array() as $name => $value ) {
			if ( 'user_id' !== $name && property_exists( $record, $name ) ) {
				$record->$name = $value;
			}
		}
		return $record;
	}

	/** As it is kept now, whatever this request has read before. */
	public static function anew( int $user_id ): self {
		wp_cache_delete( $user_id, 'user_meta' );
		return self::of( $user_id );
	}

	/** Keep it. */
	public function save(): void {
		$values = get_object_vars( $this );
		unset( $values['user_id'] );
		update_user_meta( $this->user_id, self::META, wp_slash( $values ) );
		update_user_meta( $this->user_id, self::STATE, $this->state );
	}

	/** Forget it. */
	public function delete(): void {
		delete_user_meta( $this->user_id, self::META );
		delete_user_meta( $this->user_id, self::STATE );
	}

	/** Begin with another picture. */
	public function begin( string $upload_id, string $stamp ): void {
		$this->upload_id = $upload_id;
		$this->stamp     = $stamp;
		$this->state     = self::UNSENT;
		$this->reason    = '';
		$this->error     = '';
		$this->shown_seq = 0;
		$this->seq       = 0;
		$this->attempts  = 0;
		$this->next_try  = 0;
		$this->since     = time();
		$this->hidden    = array();
	}

	/** Whose upload an id names; 0 where it is not one of this site. */
	public static function user_of( string $upload_id ): int {
		$prefix = preg_quote( Settings::prefix(), '~' );
		return preg_match( "~^$prefix([1-9][0-9]{0,17})/[0-9a-f]{40}$~", $upload_id, $found ) ? (int) $found[1] : 0;
	}

	/**
	 * Do something while nobody else changes this user's record.
	 *
	 * @throws \RuntimeException Somebody else has held it for too long.
	 */
	public static function locked( int $user_id, callable $what ) {
		global $wpdb;
		$lock = $wpdb->prefix . "avatarmod_$user_id";
		if ( '1' !== (string) $wpdb->get_var( $wpdb->prepare( 'SELECT GET_LOCK(%s, 10)', $lock ) ) ) {
			throw new \RuntimeException( "The record of user $user_id is being changed." );
		}
		try {
			return $what( self::anew( $user_id ) );
		} finally {
			$wpdb->query( $wpdb->prepare( 'SELECT RELEASE_LOCK(%s)', $lock ) );
		}
	}
}
